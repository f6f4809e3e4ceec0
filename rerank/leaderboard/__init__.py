"""Results side by side: what is run on what, and the site that shows what came of it. The site is built in `site`."""

# Dunnett's test on the topic + system analysis of variance by R's multcomp, the reference for test_dunnett.py.
# Run: Rscript dunnett.R > dunnett.csv
suppressMessages(library(multcomp))
set.seed(20261127)
cat(sprintf("# %s, multcomp %s, mvtnorm %s\n", R.version.string, packageVersion("multcomp"), packageVersion("mvtnorm")))
cat("topics,systems,scores,system,difference,p,low,high\n")
for (size in list(c(6, 2), c(10, 3), c(25, 4), c(43, 7), c(50, 9))) {
  n <- size[1]; m <- size[2]
  scores <- round(outer(runif(n), rep(0, m), "+") + outer(rep(0, n), (0:(m - 1)) * 0.03, "+") + rnorm(n * m, sd = 0.12), 3)
  data <- data.frame(score = as.vector(scores), topic = factor(rep(1:n, m)), system = factor(rep(1:m, each = n)))
  fit <- aov(score ~ topic + system, data = data)
  test <- glht(fit, linfct = mcp(system = "Dunnett"))
  p <- summary(test, test = adjusted("single-step", maxpts = 3e5, abseps = 1e-5))$test$pvalues
  interval <- confint(test, calpha = adjusted_calpha())$confint
  for (j in 2:m)
    cat(sprintf("%d,%d,%s,%d,%.10f,%.10g,%.10f,%.10f\n", n, m, if (j == 2) paste(scores, collapse = " ") else "", j,
                interval[j - 1, 1], p[j - 1], interval[j - 1, 2], interval[j - 1, 3]))
}

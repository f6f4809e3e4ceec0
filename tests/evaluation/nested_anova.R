# The analysis of variance of systems over collections by R's aov, the reference for test_stratified_comparison.py.
# Run: Rscript nested_anova.R > nested_anova.csv
set.seed(20261127)
cat(sprintf("# %s\n", R.version.string))
cat("design,topics,scores,effect,ss,df,f,p\n")
designs <- list(c(5, 5), c(4, 9, 6), c(20, 31, 12, 7))
for (design in seq_along(designs)) {
  sizes <- designs[[design]]; m <- design + 1
  data <- do.call(rbind, lapply(seq_along(sizes), function(k) {
    n <- sizes[k]
    scores <- outer(runif(n) / 2, 0.02 * (1:m), "+") + 0.05 * k + outer(rep(1, n), rnorm(m, sd = 0.04)) +
      matrix(rnorm(n * m, sd = 0.1), n)
    data.frame(score = round(as.vector(scores), 3), topic = paste(k, rep(1:n, m)), system = rep(1:m, each = n), collection = k)
  }))
  for (name in c("topic", "system", "collection")) data[[name]] <- factor(data[[name]])
  fit <- summary(aov(score ~ system * collection + Error(topic), data = data))
  between <- fit[["Error: topic"]][[1]]; within <- fit[["Error: Within"]][[1]]
  table <- rbind(within[1, ], between[1, ], between[2, ], within[2, ], within[3, ])
  for (row in 1:5)
    cat(sprintf("%d,%s,%s,%s,%.12g,%d,%.12g,%.12g\n", design, paste(sizes, collapse = " "),
                if (row == 1) paste(data$score, collapse = " ") else "",
                c("system", "collection", "topic(collection)", "system:collection", "error")[row],
                table[row, "Sum Sq"], as.integer(table[row, "Df"]), table[row, "F value"], table[row, "Pr(>F)"]))
}

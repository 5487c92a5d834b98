"""The paper's tables: preference accuracy (Table 3) and the ranking of text-to-image models (Table 1)."""

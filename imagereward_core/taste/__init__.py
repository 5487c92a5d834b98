"""A taste of one's own: learnt from duels between pictures of one prompt, on top of a scorer.

    imagereward taste add duels.jsonl && imagereward taste fit
    imagereward score outputs/ -r --scorer my-taste

| file | what it holds |
|---|---|
| appearance | sixteen plain numbers of how a picture looks, differentiable |
| basis, head | features a head can learn from · Bayesian logistic regression whose prior is the scorer |
| verdict | whether it is better than the scorer beyond chance |
| duels, pairs | duels out of files, marks and the library · which two pictures to show next |
| learning | from the library's duels to a fitted taste |
| files | tastes on disk, exported and imported |

The scorer itself is `scorers/taste.py`. Importing this package imports neither torch nor numpy.
"""

"""A taste of one's own: learnt from duels between pictures of one prompt, on top of a scorer.

    imagereward taste add duels.jsonl && imagereward taste fit
    imagereward score outputs/ -r --scorer my-taste

| file | what it holds |
|---|---|
| appearance | sixteen plain numbers of how a picture looks, differentiable |
| basis, head | features a head can learn from · Bayesian logistic regression whose prior is the scorer |
| verdict | whether it is better than the scorer beyond chance |
| duels, pairs | duels out of files, and those that marks and stars imply · which two pictures to show next |
| learning | from the library's duels to a fitted taste |
| place, files | where tastes lie and what is said of them · the tastes in the files, exported and imported |

The scorer itself is `scorers/taste.py`. Importing this package imports neither torch nor numpy.
"""

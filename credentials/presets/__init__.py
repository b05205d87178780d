"""The rows of the table of providers, by kind. `credentials.providers` puts them together.

Every row is as in the provider's SDK or its documentation. A test holds them against a list of its own.

Key checks list the models, if that needs a valid key. OpenRouter's and DeepInfra's lists are public, so their
descriptions of the account are used. Without a check are those that offer no call that is free and needs a valid key:
lists of models are public at NVIDIA, Hugging Face and GitHub, and Brave answers 422 to a wrong key, as to much else.
"""

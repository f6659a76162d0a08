"""Corpus, tokenizer, training and evaluation of the shipped model nano."""

"""`twopass models`: what is known of models, what is here, fetching them, and measuring one on the user's texts."""

"""The command `ariel-jax`: one file per subcommand, each imported only when it is called."""

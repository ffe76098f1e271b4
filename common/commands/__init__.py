"""The subcommands of `drift`, one file each; heavy imports happen inside the commands."""

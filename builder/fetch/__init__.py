"""Download model repositories from the hub: pinned to a commit, filtered, verified."""

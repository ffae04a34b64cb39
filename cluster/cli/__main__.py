"""`python -m cluster.cli`: the command where our packages were sent to a cluster, and its name before `troupe`."""

from cluster.cli.start import main

if __name__ == "__main__":
    main()

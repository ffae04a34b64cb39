"""`python -m cluster.cli`: the command of jobs on a cluster, to which our packages are sent; also its old name."""

from cluster.cli.start import main

if __name__ == "__main__":
    main()

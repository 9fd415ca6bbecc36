"""`python -m nemo_bt`: the same as the nemo-bt command."""

from nemo_bt.cli.main import main

if __name__ == "__main__":
    main()

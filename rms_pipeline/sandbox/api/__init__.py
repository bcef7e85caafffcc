"""What the account answers to a request, address by address."""

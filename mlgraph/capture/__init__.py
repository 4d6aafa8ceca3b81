"""From an ``nn.Module`` to a program."""

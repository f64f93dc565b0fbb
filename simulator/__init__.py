"""Users, worlds and logs that the production runner is driven with, and what it is compared with."""

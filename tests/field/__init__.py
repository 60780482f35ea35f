"""What people have, and have reported elsewhere: each test is a statement about it, with its public source."""

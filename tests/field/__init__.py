"""What people have: files, labels and models from public reports, each with its right value."""

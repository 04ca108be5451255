"""What makes pages of this folder."""

"""What belongs to one provider alone: a small file each, and the table of them all."""

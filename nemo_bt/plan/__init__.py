"""What a layout needs and sends, counted without building it."""

"""What goes wrong while an image is written, made to go wrong at a known place."""

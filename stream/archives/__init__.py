"""Reading what others have written: image archives, and the tars in them."""

"""`boxwright inspect`: what assigners do with the objects of a data set, and which annotations look wrong."""

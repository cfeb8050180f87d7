"""stub"""
def write_checkpoint(*a): pass

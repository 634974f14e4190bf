"""What a person sees: one view a module, and the report."""

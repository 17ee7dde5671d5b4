"""The pipeline from lease to settlement, blind to vendors."""

"""The lab's controllers: each watches the store and brings objects in line, as those of a cluster would."""

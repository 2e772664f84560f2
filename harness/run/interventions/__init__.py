"""Interventions of a run: effects of clamped neurons and texts generated under steering."""

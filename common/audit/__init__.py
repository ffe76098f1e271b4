"""Whether a run's reward rose because the images are better, or because the scorer was fooled."""

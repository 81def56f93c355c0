"""What a picture or a clip is: its facts from its bytes alone, and its pixels at a wanted size."""

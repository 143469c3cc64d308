"""weft: tables of interactions in, recommendations out."""

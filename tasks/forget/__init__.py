"""Taking documents down: found, blanked where they lie, kept out from then on, and searched for."""

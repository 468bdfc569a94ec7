"""How a policy's weights travel between processes: what lies where, who writes it, the proof that it arrived."""

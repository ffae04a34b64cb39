"""`troupe search`: trials, Ray Tune, and the leaderboard."""

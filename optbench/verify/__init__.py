"""Results that others have published, reproduced: is the difference no larger than that between their own runs?"""

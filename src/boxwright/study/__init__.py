"""boxwright.study"""

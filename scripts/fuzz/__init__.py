"""Damaged and odd inputs by the thousand: each must give a result or one line, soon and in memory.

python -m scripts.fuzz --count 3000 --out fuzz.jsonl
"""

"""Word lists and small facts that the generated documents are made of."""

NAMES = (
    "Ada", "Amir", "Anna", "Ben", "Carla", "Chen", "Clara", "Daniel", "Diego", "Elena", "Emma",
    "Fatima", "Felix", "Grace", "Hana", "Hugo", "Ida", "Ivan", "Jack", "Jonas", "Julia", "Kenji",
    "Lara", "Leo", "Lina", "Lucas", "Maria", "Max", "Mei", "Mila", "Nadia", "Nina", "Noah", "Olga",
    "Omar", "Paul", "Pedro", "Priya", "Rosa", "Ruth", "Sam", "Sara", "Sofia", "Tara", "Theo", "Tom",
    "Vera", "Victor", "Yara", "Zoe",
)  # fmt: skip

CAPITALS = {
    "Argentina": "Buenos Aires", "Australia": "Canberra", "Austria": "Vienna",
    "Belgium": "Brussels", "Brazil": "Brasilia", "Canada": "Ottawa", "Chile": "Santiago",
    "China": "Beijing", "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo",
    "Finland": "Helsinki", "France": "Paris", "Germany": "Berlin", "Greece": "Athens",
    "Hungary": "Budapest", "Iceland": "Reykjavik", "India": "New Delhi", "Ireland": "Dublin",
    "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi", "Mexico": "Mexico City",
    "Morocco": "Rabat", "Norway": "Oslo", "Peru": "Lima", "Poland": "Warsaw",
    "Portugal": "Lisbon", "Spain": "Madrid", "Sweden": "Stockholm", "Turkey": "Ankara",
    "Vietnam": "Hanoi",
}  # fmt: skip

OPPOSITES = (
    ("big", "small"), ("hot", "cold"), ("fast", "slow"), ("early", "late"), ("open", "closed"),
    ("full", "empty"), ("light", "dark"), ("long", "short"), ("high", "low"), ("new", "old"),
    ("happy", "sad"), ("strong", "weak"), ("wet", "dry"), ("hard", "soft"), ("near", "far"),
    ("rich", "poor"), ("left", "right"), ("loud", "quiet"), ("clean", "dirty"), ("deep", "shallow"),
    ("true", "false"), ("safe", "dangerous"), ("thick", "thin"), ("heavy", "light"),
)  # fmt: skip

FRUITS = (
    "apples", "bananas", "cherries", "figs", "grapes", "lemons", "melons", "oranges", "peaches",
    "pears", "plums",
)  # fmt: skip
THINGS = (
    "bag", "ball", "bell", "book", "bottle", "bowl", "box", "chair", "clock", "coat", "cup", "drum",
    "flute", "hat", "key", "kite", "lamp", "letter", "map", "mirror", "pen", "phone", "plate",
    "radio", "ring", "rope", "shoe", "spoon", "table", "ticket", "umbrella", "watch",
)  # fmt: skip
COLOURS = (
    "black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow",
)  # fmt: skip
ANIMALS = ("bird", "cat", "cow", "dog", "duck", "fox", "goat", "horse", "mouse", "owl", "rabbit")
PLACES = (
    "at the harbour", "at the market", "at the station", "by the river", "in the forest",
    "in the garden", "in the kitchen", "in the library", "in the park", "near the bridge",
    "on the beach", "on the hill",
)  # fmt: skip
JOBS = (
    "a baker", "a carpenter", "a doctor", "a farmer", "a gardener", "a nurse", "a painter",
    "a pilot", "a singer", "a teacher", "a writer", "an engineer",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
ORDINALS = ("first", "second", "third", "fourth", "fifth")
UNITS = (
    ("minutes", "hour", 60), ("seconds", "minute", 60), ("hours", "day", 24), ("days", "week", 7),
    ("centimetres", "metre", 100), ("metres", "kilometre", 1000), ("grams", "kilogram", 1000),
    ("months", "year", 12), ("bits", "byte", 8),
)  # fmt: skip
DEFINITIONS = {
    "a list": "A list is an ordered sequence of items that can be changed after it is made.",
    "a tuple": "A tuple is an ordered sequence of items that cannot be changed after it is made.",
    "a dictionary": "A dictionary maps keys to values and finds a value by its key.",
    "a set": "A set holds items without an order, and holds each of them only once.",
    "a string": "A string is a sequence of characters.",
    "a function": "A function is a named piece of code that takes arguments and returns a value.",
    "a class": "A class describes objects: the data that they hold and what they can do.",
    "a module": "A module is a file of Python code that other code can import.",
    "a loop": "A loop repeats a piece of code, once for each item or while a condition holds.",
    "an exception": "An exception reports an error and can be caught with a try statement.",
    "a generator": "A generator is a function that yields its values one at a time.",
    "a variable": "A variable is a name that refers to a value.",
}
# Function name, arguments, what it does, body.
SNIPPETS = (
    ("add", "a, b", "adds two numbers", "return a + b"),
    ("square", "x", "squares a number", "return x * x"),
    ("is_even", "n", "tells whether a number is even", "return n % 2 == 0"),
    ("is_odd", "n", "tells whether a number is odd", "return n % 2 == 1"),
    ("largest", "items", "returns the largest item of a list", "return max(items)"),
    ("smallest", "items", "returns the smallest item of a list", "return min(items)"),
    ("total", "items", "adds up the items of a list", "return sum(items)"),
    ("mean", "items", "returns the mean of a list", "return sum(items) / len(items)"),
    ("reverse", "text", "reverses a string", "return text[::-1]"),
    ("first", "items", "returns the first item of a list", "return items[0]"),
    ("last", "items", "returns the last item of a list", "return items[-1]"),
    ("count_words", "text", "counts the words of a text", "return len(text.split())"),
    ("shout", "text", "puts a text into upper case", "return text.upper()"),
    ("is_empty", "items", "tells whether a list is empty", "return not items"),
    ("unique", "items", "removes repeated items from a list", "return sorted(set(items))"),
    ("double", "items", "doubles every item of a list", "return [2 * item for item in items]"),
    (
        "factorial",
        "n",
        "computes the factorial of a number",
        "result = 1\n    for i in range(2, n + 1):\n        result *= i\n    return result",
    ),
    (
        "read_lines",
        "path",
        "reads the lines of a file",
        "with open(path) as f:\n        return f.read().splitlines()",
    ),
    (
        "find",
        "items, value",
        "finds the position of a value in a list",
        "for i, item in enumerate(items):\n        if item == value:\n            return i\n"
        "    return -1",
    ),
    (
        "count",
        "items",
        "counts how often each item occurs",
        "counts = {}\n    for item in items:\n        counts[item] = counts.get(item, 0) + 1\n"
        "    return counts",
    ),
)

"""Puts questions in several phrasings, so that a model can't lean on one wording.

`{things}` is a plural such as "red cells", `{thing}` a singular with its article such as "a lake", `{the}` the same
with "the". A phrasing is chosen at random for each question.
"""

COUNT = (
    "How many {things} are there?",
    "How many {things} do you see?",
    "Count the {things}.",
    "What is the number of {things}?",
)
COUNT_INFECTED = (
    "How many cells are infected?",
    "How many infected cells are there?",
    "Count the infected cells.",
    "What is the number of infected cells?",
)
COUNT_RED_ROOFS = (
    "How many houses have a red roof?",
    "How many red roofs are there?",
    "Count the red roofs.",
)
PRESENCE = (
    "Is there {thing}?",
    "Do you see {thing}?",
    "Is there {thing} in the picture?",
    "Does the picture show {thing}?",
)
ANY_INFECTED = (
    "Is any cell infected?",
    "Are there infected cells?",
    "Do you see an infected cell?",
)
WHERE = (
    "Where is {the}?",
    "In which part of the picture is {the}?",
    "Where do you see {the}?",
)
SIDE = (
    "On which side is {the}?",
    "Is {the} on the left or on the right?",
    "Which side is {the} on?",
)
COLOUR = (
    "What colour is {the}?",
    "Which colour does {the} have?",
    "What is the colour of {the}?",
)
LIGHT = (
    "What colour is the traffic light?",
    "What is the state of the traffic light?",
    "What does the traffic light show?",
)
MORE = (
    "Are there more {things} than {others}?",
    "Is the number of {things} larger than the number of {others}?",
    "Do you see more {things} than {others}?",
)
BESIDE = (
    "Is {the} to the {side} of {other}?",
    "Is {the} further {side} than {other}?",
    "Does {the} lie to the {side} of {other}?",
)
OBSTACLE = (
    "What blocks the road?",
    "Which obstacle is on the road?",
    "What obstacle do you see?",
)
SAFE = (
    "Is it safe to drive on?",
    "Is the way free?",
    "Can the car drive on?",
)
DAYLIGHT = (
    "Is it day or night?",
    "What time of day is it?",
    "Was the picture taken by day or at night?",
)
DOMAIN = (
    "What kind of picture is this?",
    "Which kind of scene is it?",
    "What type of picture do you see?",
)
CAPTION = (
    "Describe the picture.",
    "What does the picture show?",
    "Describe what you see.",
    "Give a short description.",
)

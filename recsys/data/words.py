"""Word lists of the synthetic catalogue: departments, groups with a chain of products each, brands, lines, texts.

In a group's chain every product is typically bought after the one before it. Books are series of volumes.
"""

from typing import NamedTuple


class Group(NamedTuple):
    """A category and its chain of products."""

    department: str
    name: str
    products: tuple[str, str, str, str]


SERIES_DEPARTMENT = "Books"
VOLUMES = ("Volume 1", "Volume 2", "Volume 3", "Volume 4")

GROUPS = (
    Group("Kitchen", "Baking", ("Stand Mixer", "Cake Tin", "Cooling Rack", "Icing Set")),
    Group("Kitchen", "Coffee", ("Espresso Machine", "Burr Grinder", "Milk Frother", "Descaling Tablets")),
    Group("Garden", "Lawn", ("Reel Mower", "Grass Trimmer", "Lawn Feed", "Edging Shears")),
    Group("Garden", "Planting", ("Raised Bed", "Potting Soil", "Seed Collection", "Watering Can")),
    Group("Outdoor", "Camping", ("Dome Tent", "Sleeping Bag", "Camp Stove", "Gas Cartridge")),
    Group("Outdoor", "Cycling", ("Touring Bike", "Pannier Bag", "Floor Pump", "Chain Oil")),
    Group("Music", "Guitars", ("Acoustic Guitar", "Clip Tuner", "String Set", "Capo")),
    Group("Music", "Keyboards", ("Stage Piano", "Keyboard Stand", "Sustain Pedal", "Dust Cover")),
    Group("Crafts", "Painting", ("Studio Easel", "Oil Colour Set", "Brush Roll", "Brush Cleaner")),
    Group("Crafts", "Sewing", ("Sewing Machine", "Fabric Bundle", "Thread Box", "Needle Pack")),
    Group("Pets", "Cats", ("Scratching Tree", "Litter Box", "Litter Sack", "Treat Tin")),
    Group("Pets", "Aquariums", ("Glass Aquarium", "Canister Filter", "Filter Sponge", "Water Test Kit")),
    Group("Home Office", "Desks", ("Standing Desk", "Monitor Arm", "Cable Tray", "Desk Mat")),
    Group("Home Office", "Writing", ("Fountain Pen", "Ink Bottle", "Notebook", "Pen Case")),
    Group("Books", "Crime", VOLUMES),
    Group("Books", "Fantasy", VOLUMES),
)

BRANDS = (
    "Aldermoor", "Brisvane", "Caldrick", "Dunvale", "Elmstad", "Fennwick", "Garrowby", "Halvorn", "Istermark",
    "Jorvale", "Kestrelby", "Lunden & Way", "Marrowin", "Norvik", "Pellworth", "Quillon", "Rothbeck", "Sundholm",
    "Tarnfeld", "Umberley", "Vantoor", "Wexmoor", "Yarrowdale",
)  # fmt: skip
LINES = (
    "Aero", "Beacon", "Cirrus", "Delta", "Ember", "Fjord", "Grove", "Harbour", "Indigo", "Juniper", "Keel", "Lumen",
    "Meridian", "Nimbus", "Onyx", "Prairie", "Quartz", "Ridge", "Solstice", "Tundra", "Umbra", "Vista", "Willow",
    "Zephyr",
)  # fmt: skip
SERIES_SUBJECTS = (
    "Salt", "Lantern", "Winter", "Raven", "Hollow", "Glass", "Ember", "Thistle", "Marsh", "Silver", "Orchard", "Tide",
)  # fmt: skip
SERIES_PLACES = (
    "Harbour", "Road", "Crown", "Archive", "Abbey", "Kingdom", "Station", "Garden", "Bridge", "Court", "Island", "Gate",
)  # fmt: skip

MATERIALS = (
    "ash wood", "brushed steel", "recycled aluminium", "cast iron", "linen", "stoneware", "bamboo", "glass fibre",
)  # fmt: skip
QUALITIES = ("light", "sturdy", "quiet", "compact", "repairable", "hand-finished", "weatherproof", "easy to clean")
AUDIENCES = ("beginners", "small homes", "daily use", "long journeys", "patient hands", "families", "demanding users")
MOODS = ("slow-burning", "witty", "dark", "warm-hearted", "twisting", "melancholy", "breathless")

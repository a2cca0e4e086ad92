"""What invented bugs are made of: the words of a factory that weighs foie gras and of a team that writes firmware."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

SITES: Final = ("LL", "LS", "MT")
DEVICES: Final = 300
FIRMWARE: Final = tuple(
    f"v{major}.{minor}.{patch}" for major, minor, patch in product((3, 2, 1), (4, 3, 2, 1, 0), (2, 1, 0))
)
"""Newest first."""
_FIRST: Final = ("Jean", "Marie", "Luc", "Sophie", "Paul", "Claire", "Hugo", "Emma", "Louis", "Anne", "Marc", "Julie")
_LAST: Final = (
    "Dupont",
    "Martin",
    "Lafitte",
    "Dubois",
    "Castaing",
    "Barrère",
    "Labat",
    "Smith",
    "Etchegaray",
    "Nguyen",
)
PEOPLE: Final = tuple(f"{first} {last}" for last, first in product(_LAST, _FIRST))
STAFF: Final = PEOPLE[:24]
TAGS: Final = (
    "sensor", "timeout", "esp32", "wifi", "calibration", "tof", "couleur", "balance", "i2c", "regression", "production",
    "lot", "température", "humidité", "mémoire", "watchdog", "ota", "dashboard", "export", "grading", "urgent-client",
    "ligne-1", "ligne-2", "ligne-3", "nuit", "nettoyage", "câblage", "alimentation", "ntp", "mqtt", "camera", "lumière",
    "seuil", "alerte", "rapport", "étiquette", "traçabilité", "audit", "haccp", "vibration",
)  # fmt: skip
_PARTS: Final = (
    ("capteur VL53L8CH", "VL53L8CH sensor"),
    ("capteur AS7341", "AS7341 sensor"),
    ("bus I2C", "I2C bus"),
    ("matrice de profondeur", "depth matrix"),
    ("connexion wifi", "wifi connection"),
    ("horloge", "clock"),
    ("mise à jour du firmware", "firmware update"),
    ("carte électronique", "circuit board"),
    ("tampon", "buffer"),
    ("balance", "scale"),
    ("tableau de bord", "dashboard"),
    ("export CSV", "CSV export"),
    ("lecture", "reading"),
    ("étalonnage", "calibration"),
    ("éclairage", "lighting"),
    ("convoyeur", "conveyor"),
    ("alimentation", "power supply"),
    ("écran", "display"),
    ("base de données", "database"),
    ("courbe spectrale", "spectral curve"),
    ("note", "grade"),
    ("seuil d'alerte", "alert threshold"),
    ("étiquette du lot", "lot label"),
    ("sonde de température", "thermal probe"),
    ("détection du lobe", "lobe detection"),
    ("estimation du volume", "volume estimate"),
    ("antenne", "antenna"),
    ("câble", "cable"),
    ("connecteur", "connector"),
    ("modèle de couleur", "colour model"),
    ("boîtier", "enclosure"),
    ("file d'attente", "queue"),
    ("certificat", "certificate"),
    ("journal", "log"),
    ("rapport d'audit", "audit report"),
    ("œillet de fixation", "mounting grommet"),
    ("joint d'étanchéité", "gasket"),
    ("bouton d'arrêt", "stop button"),
)
_TROUBLE: Final = (
    ("ne répond plus", "stops responding"),
    ("dépasse le délai", "timeout"),
    ("donne des valeurs fausses", "gives wrong values"),
    ("redémarre sans cesse", "keeps rebooting"),
    ("se décale", "drifts"),
    ("est bloquée", "is stuck"),
    ("perd des échantillons", "loses samples"),
    ("présente un défaut", "shows a defect"),
    ("est trop lent", "is too slow"),
    ("surchauffe", "overheats"),
    ("renvoie des zéros", "returns zeros"),
    ("oscille", "oscillates"),
    ("se déconnecte", "disconnects"),
    ("affiche une erreur", "displays an error"),
    ("est incohérent", "is inconsistent"),
    ("est saturé", "saturates"),
    ("s'encrasse", "gets dirty"),
    ("échoue", "fails"),
    ("manque", "is missing"),
    ("est corrompu", "is corrupted"),
    ("clignote", "flickers"),
    ("fuit", "leaks"),
    ("vibre", "vibrates"),
    ("se fissure", "cracks"),
    ("double les mesures", "duplicates measurements"),
    ("est illisible", "is unreadable"),
)
_WHEN: Final = (
    ("après deux heures", "after two hours"),
    ("au démarrage", "at startup"),
    ("pendant le nettoyage", "during cleaning"),
    ("en production", "in production"),
    ("la nuit", "overnight"),
    ("après la mise à jour", "after the update"),
    ("quand il fait froid", "when it is cold"),
    ("à pleine cadence", "at full speed"),
    ("par intermittence", "intermittently"),
    ("depuis lundi", "since Monday"),
    ("avec le nouveau lot", "with the new lot"),
    ("sur la ligne trois", "on line three"),
    ("quand l'humidité monte", "when humidity rises"),
    ("après une coupure", "after an outage"),
    ("sans raison", "for no reason"),
    ("lors du changement d'équipe", "at shift change"),
    ("sous forte lumière", "under bright light"),
    ("au réveil", "on wake-up"),
)
_REMARKS: Final = (
    ("Vérifié par {} mesures.", "Verified with {} measurements."),
    ("Vu {} fois cette semaine.", "Seen {} times this week."),
    ("Le remplacement a coûté {} minutes.", "Replacing it took {} minutes."),
    ("Tension mesurée : {} mV.", "Measured voltage: {} mV."),
    ("Reproduit en {} minutes.", "Reproduced within {} minutes."),
    ("Lot numéro {} concerné.", "Lot number {} is affected."),
    ("Corrigé, à confirmer sur {} pièces.", "Fixed, to be confirmed on {} pieces."),
    ("Écart de {} mm.", "Deviation of {} mm."),
    ("L'opérateur signale {} rejets.", "The operator reports {} rejects."),
    ("Température de {} degrés.", "Temperature of {} degrees."),
)


def device(number: int) -> str:
    """Of three sites, a hundred each."""
    return f"ESP32_{SITES[number % 3]}_{number // 3 + 1:02d}"


def title(random: Random, of_device: str | None, firmware: str) -> str:
    """In French or English, sometimes with the device or the firmware."""
    language = random.choice((0, 0, 0, 1, 1))
    part, trouble, when = (random.choice(said)[language] for said in (_PARTS, _TROUBLE, _WHEN))
    named = random.choice(("", "", "", "", "", "", "", of_device or "", of_device or "", firmware))
    said = f"{part} {trouble} {when} {named}".rstrip()
    return said[0].upper() + said[1:]


def sentences(random: Random) -> list[str]:
    """What descriptions and comments are made of."""
    made = []
    for language in (0, 0, 0, 1, 1):
        for part, trouble in product(_PARTS, _TROUBLE):
            made.append(f"{part[language]} {trouble[language]} {random.choice(_WHEN)[language]}.".capitalize())
            made.append(random.choice(_REMARKS)[language].format(random.randrange(2, 400)))
    random.shuffle(made)
    return made

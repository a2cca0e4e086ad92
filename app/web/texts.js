// All that the page says, in French and English.
import { bugTexts } from "./bug_texts.js";

const LANGUAGES = {
  en: {
    name: "English", skip: "Skip to the last liver", site: "Site", allSites: "all", leave: "Sign out", lastLiver: "Last liver",
    line: "Line", thisHour: "Livers this hour", perMinute: "Per minute", conformity: "Conformity", averageScore: "Average score",
    gradesOfHour: "Grades of this hour", openAlerts: "Open alerts", trend: "Conformity, last 24 hours", devices: "Devices",
    spectrum: (clear) => `Spectrum, counts (clear: ${clear})`, signIn: "This service needs a key", key: "API key", enter: "Sign in", wrongKey: "This key is not valid.",
    theme: { auto: "Theme: automatic", light: "Theme: light", dark: "Theme: dark" },
    link: { connecting: "Connecting", live: "Live", stale: "No news", lost: "Link lost" },
    lost: (time) => `Link lost since ${time}. What you see is from then; trying again.`,
    stale: (minutes) => `No liver for ${minutes} min. The line stands still, or the boxes send nothing.`,
    failed: "That did not work; try again.",
    silent: "The server is silent: what you see may be old.",
    never: "No liver was ever measured here.",
    heights: (most) => `Height, up to ${most} mm`, noHeights: "No height map", ago: (seconds) => `${seconds} s ago`,
    at: (time) => `at ${time}`, score: "score", none: "none", acknowledge: "Acknowledge", acknowledged: "Acknowledged",
    times: (count) => `${count} times`, since: (time) => `since ${time}`, online: "online", more: (count) => `and ${count} more`,
    NOT_GRADABLE: "Not gradable", REJECT: "Reject",
    states: { online: "online", stale: "quiet", offline: "offline", never_seen: "never seen" },
    rules: {
      reject: "Livers are rejected", low_score: "Low scores", oxidation: "Oxidation", freshness: "Freshness",
      device_offline: "Box offline", devices_offline: "Boxes offline together", site_offline: "Whole site offline",
      all_offline: "All sites offline", clock_off: "Clock of the box is wrong", quarantine_growing: "Refused messages are growing",
    },
    reasons: {
      score: (r, f) => r.below === null ? `${f.percent(r.least)} or more: the best grade` : `From ${f.percent(r.least)}, below ${f.percent(r.below)}`,
      rejected_for_defects: (r) => `Rejected for its defects${r.defects === null ? "" : ` (${r.defects})`}`,
      weaker_tof: (r, f) => `Shape is the weaker part: ${f.percent(r.score)}`,
      weaker_spectral: (r, f) => `Colour is the weaker part: ${f.percent(r.score)}`,
      defect: (r, f) => `Something stands out by ${f.whole(r.deviation_mm)} mm (severity ${f.percent(r.severity)})`,
      ratio: (r, f) => `${r.name} is ${f.two(r.value)}, best ${f.two(r.optimal[0])} to ${f.two(r.optimal[1])}${r.state === "outside" ? ": not acceptable" : ""}`,
      too_few_zones: (r, f) => `Only ${f.whole(r.usable)} of 64 zones usable, ${f.whole(r.least)} needed`,
      no_product_seen: () => "No liver seen on the tray", spectrum_unusable: () => "Spectrum saturated or dark",
      device_sent_no_scores: () => "The box sent no scores",
    },
  },
  fr: {
    name: "Français", skip: "Aller au dernier foie", site: "Site", allSites: "tous", leave: "Se déconnecter", lastLiver: "Dernier foie",
    line: "Ligne", thisHour: "Foies cette heure", perMinute: "Par minute", conformity: "Conformité", averageScore: "Score moyen",
    gradesOfHour: "Grades de l’heure", openAlerts: "Alertes ouvertes", trend: "Conformité, dernières 24 heures", devices: "Appareils",
    spectrum: (clear) => `Spectre, coups (clair : ${clear})`, signIn: "Ce service demande une clé", key: "Clé d’API", enter: "Se connecter", wrongKey: "Cette clé n’est pas valable.",
    theme: { auto: "Thème : automatique", light: "Thème : clair", dark: "Thème : sombre" },
    link: { connecting: "Connexion", live: "En direct", stale: "Sans nouvelles", lost: "Liaison perdue" },
    lost: (time) => `Liaison perdue depuis ${time}. Les chiffres datent de ce moment ; nouvel essai en cours.`,
    stale: (minutes) => `Aucun foie depuis ${minutes} min. La ligne est arrêtée, ou les boîtiers n’envoient rien.`,
    failed: "Cela n’a pas marché ; réessayez.",
    silent: "Le serveur se tait : l’affichage peut être ancien.",
    never: "Aucun foie n’a encore été mesuré ici.",
    heights: (most) => `Hauteur, jusqu’à ${most} mm`, noHeights: "Pas de carte de hauteur", ago: (seconds) => `il y a ${seconds} s`,
    at: (time) => `à ${time}`, score: "score", none: "aucune", acknowledge: "Prendre en compte", acknowledged: "Prise en compte",
    times: (count) => `${count} fois`, since: (time) => `depuis ${time}`, online: "en ligne", more: (count) => `et ${count} autres`,
    NOT_GRADABLE: "Non gradable", REJECT: "Rejet",
    states: { online: "en ligne", stale: "silencieux", offline: "hors ligne", never_seen: "jamais vu" },
    rules: {
      reject: "Des foies sont rejetés", low_score: "Scores bas", oxidation: "Oxydation", freshness: "Fraîcheur",
      device_offline: "Boîtier hors ligne", devices_offline: "Boîtiers hors ligne ensemble", site_offline: "Site entier hors ligne",
      all_offline: "Tous les sites hors ligne", clock_off: "Horloge du boîtier fausse", quarantine_growing: "Les messages refusés augmentent",
    },
    reasons: {
      score: (r, f) => r.below === null ? `${f.percent(r.least)} ou plus : le meilleur grade` : `À partir de ${f.percent(r.least)}, sous ${f.percent(r.below)}`,
      rejected_for_defects: (r) => `Rejeté pour ses défauts${r.defects === null ? "" : ` (${r.defects})`}`,
      weaker_tof: (r, f) => `La forme est le point faible : ${f.percent(r.score)}`,
      weaker_spectral: (r, f) => `La couleur est le point faible : ${f.percent(r.score)}`,
      defect: (r, f) => `Un corps dépasse de ${f.whole(r.deviation_mm)} mm (gravité ${f.percent(r.severity)})`,
      ratio: (r, f) => `${r.name} vaut ${f.two(r.value)}, idéal ${f.two(r.optimal[0])} à ${f.two(r.optimal[1])}${r.state === "outside" ? " : inacceptable" : ""}`,
      too_few_zones: (r, f) => `Seulement ${f.whole(r.usable)} zones sur 64 utilisables, il en faut ${f.whole(r.least)}`,
      no_product_seen: () => "Aucun foie vu sur la barquette", spectrum_unusable: () => "Spectre saturé ou sombre",
      device_sent_no_scores: () => "Le boîtier n’a pas envoyé de scores",
    },
  },
};

export function texts(language) {
  return { ...LANGUAGES[language], ...bugTexts[language] };
}

export function otherLanguage(language) {
  return language === "fr" ? "en" : "fr";
}

// Numbers and times as the language writes them.
export function formats(language) {
  const locale = language === "en" ? "en-GB" : language; // 24 hours
  const number = (digits) => new Intl.NumberFormat(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const [none, one, two] = [number(0), number(1), number(2)];
  const time = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const hour = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit" });
  return {
    whole: (value) => none.format(value), one: (value) => one.format(value), two: (value) => two.format(value),
    percent: (value) => `${none.format(value * 100)}\u00a0%`, fine: (value) => `${value === 1 ? none.format(100) : one.format(value * 100)}\u00a0%`,
    time: (value) => time.format(new Date(value)), hour: (value) => hour.format(new Date(value)),
  };
}

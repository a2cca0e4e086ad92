// What the page says of bugs, in French and English.
export const bugTexts = {
  en: {
    colon: ": ", openBugs: "Open bugs", bugsOf: (name) => `Bugs of ${name}`, bugsOfLiver: "Bugs of this liver", reportBug: "Report a bug", close: "Close",
    send: "Report", sending: "Sending…", similarBugs: "Already known?", noBugs: "no bugs", bugReported: "Reported as", bugOutcome: "Resolution",
    bugComments: "Comments", mayNotReport: "Your key does not allow to report bugs.", bugsFailed: "The bugs could not be read; try again.",
    reportFailed: "It is not sure whether that arrived. Press again: the same report makes no second bug.",
    sampleNotLinked: "The liver itself could not be linked to it.", internal: "internal",
    fields: {
      title: "Title", description: "Description", severity: "Severity", priority: "Priority", category: "Category", deviceId: "Device",
      firmwareVersion: "Firmware", siteCode: "Site", tags: "Tags, between commas", reportedBy: "Your name", reproductionSteps: "To reproduce",
      assignedTo: "Assigned to", fixedInFirmware: "Fixed in",
    },
    severities: { critical: "critical", high: "high", medium: "medium", low: "low" },
    priorities: { urgent: "urgent", high: "high", medium: "medium", low: "low" },
    categories: { "": "–", hardware: "hardware", firmware: "firmware", backend: "backend", frontend: "frontend", sensor: "sensor", quality: "quality", ml: "machine learning" },
    statuses: {
      open: "open", in_progress: "in progress", awaiting_info: "awaiting information", resolved: "resolved", closed: "closed",
      wont_fix: "will not be fixed", duplicate: "duplicate", reopened: "reopened",
    },
    age: (count, unit) => `${count} ${{ minute: "min", hour: "h", day: "d" }[unit]}`,
    figures: {
      alert: "Alert", since: "Since", last: "Last at", times: "Times", value: "Value", worst: "Worst", devices: "Devices", sample: "Liver",
      lot: "Lot", grade: "Grade", score: "Score", shape: "Shape", colour: "Colour", recipe: "Recipe", reasons: "Why", flags: "Flags", state: "State",
      lastSeen: "Last seen", uptime: "Up for, s", boots: "Boots", clock: "Clock ahead, s", firmware: "Firmware",
    },
    titleOfSample: (grade, name) => `Grade ${grade} in doubt: ${name}`, titleOfDevice: (name, now) => `${name}: ${now}`,
  },
  fr: {
    colon: "\u00a0: ", openBugs: "Anomalies ouvertes", bugsOf: (name) => `Anomalies de ${name}`, bugsOfLiver: "Anomalies de ce foie", reportBug: "Signaler une anomalie",
    close: "Fermer", send: "Signaler", sending: "Envoi…", similarBugs: "Déjà connue ?", noBugs: "aucune anomalie", bugReported: "Signalée sous",
    bugOutcome: "Résolution", bugComments: "Commentaires", mayNotReport: "Votre clé ne permet pas de signaler des anomalies.",
    bugsFailed: "Les anomalies n’ont pas pu être lues ; réessayez.",
    reportFailed: "Il n’est pas certain que l’envoi soit arrivé. Appuyez encore : le même signalement ne fait pas deux anomalies.",
    sampleNotLinked: "Le foie lui-même n’a pas pu y être lié.", internal: "interne",
    fields: {
      title: "Titre", description: "Description", severity: "Gravité", priority: "Priorité", category: "Catégorie", deviceId: "Appareil",
      firmwareVersion: "Micrologiciel", siteCode: "Site", tags: "Étiquettes, entre virgules", reportedBy: "Votre nom",
      reproductionSteps: "Pour reproduire", assignedTo: "Confiée à", fixedInFirmware: "Corrigée dans",
    },
    severities: { critical: "critique", high: "haute", medium: "moyenne", low: "basse" },
    priorities: { urgent: "urgente", high: "haute", medium: "moyenne", low: "basse" },
    categories: { "": "–", hardware: "matériel", firmware: "micrologiciel", backend: "serveur", frontend: "affichage", sensor: "capteur", quality: "qualité", ml: "apprentissage" },
    statuses: {
      open: "ouverte", in_progress: "en cours", awaiting_info: "en attente d’informations", resolved: "résolue", closed: "fermée",
      wont_fix: "ne sera pas corrigée", duplicate: "doublon", reopened: "rouverte",
    },
    age: (count, unit) => `${count} ${{ minute: "min", hour: "h", day: "j" }[unit]}`,
    figures: {
      alert: "Alerte", since: "Depuis", last: "Dernière fois", times: "Fois", value: "Valeur", worst: "Pire", devices: "Appareils", sample: "Foie",
      lot: "Lot", grade: "Grade", score: "Score", shape: "Forme", colour: "Couleur", recipe: "Recette", reasons: "Pourquoi", flags: "Marques", state: "État",
      lastSeen: "Vu pour la dernière fois", uptime: "En marche depuis, s", boots: "Démarrages", clock: "Horloge en avance, s", firmware: "Micrologiciel",
    },
    titleOfSample: (grade, name) => `Grade ${grade} douteux : ${name}`, titleOfDevice: (name, now) => `${name} : ${now}`,
  },
};

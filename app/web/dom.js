// Nodes: whatever comes from the server is put in as text.
export const show = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// Writing the same again would make a screen reader say it again.
export function change(node, content) {
  if (node.textContent !== content) node.textContent = content;
}

// Opens a dialog; who works with the keyboard comes back to `back`, a selector, though it may have been drawn anew.
export function open(dialog, back) {
  if (dialog.open) return;
  dialog.showModal();
  dialog.addEventListener("close", () => { if (back) document.querySelector(back)?.focus(); }, { once: true });
}

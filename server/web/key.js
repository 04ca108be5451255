// The key, where the server asks for one: kept in this tab's session storage, and nowhere else.

import { at } from "./dom.js";

const NAME = "twopass.key";

/** The key of this tab, or null. */
export const storedKey = () => sessionStorage.getItem(NAME);

let isDeclined = false; // a request that needs a key doesn't ask again; the button in the collection's view does

/** Ask for a key, unless that was declined before; `onKey` is called when there is another. */
export function askForKey(why, onKey, { again = false } = {}) {
  const dialog = at("key-dialog");
  if (dialog.open || (isDeclined && !again)) return;
  at("key-why").textContent = why;
  at("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  dialog.onclose = () => {
    isDeclined = dialog.returnValue !== "use";
    if (isDeclined) return;
    sessionStorage.setItem(NAME, at("key").value.trim());
    at("key").value = "";
    onKey();
  };
  at("key-cancel").onclick = () => dialog.close("");
}

/** Forget the key. */
export const forgetKey = () => sessionStorage.removeItem(NAME);

// Keeps the state of a domain fresh while its page is open. Without it the page shows the state of
// when it was loaded.
"use strict";
(() => {
  const picture = document.getElementById("picture");
  if (!picture || !window.EventSource) return;
  const state = document.getElementById("live-state");
  const say = (text) => { if (state) state.textContent = text; };
  const source = new EventSource(picture.dataset.live);
  source.addEventListener("picture", (event) => {
    picture.innerHTML = event.data;
    const headline = picture.querySelector(".headline");
    const domain = document.title.split(" · ").pop();
    if (headline) document.title = headline.textContent.trim() + " · " + domain;
  });
  source.addEventListener("open", () => say("This page is live."));
  // The browser tries again by itself, at whichever node answers then.
  source.addEventListener("error", () => say("Not live: connecting again …"));
})();

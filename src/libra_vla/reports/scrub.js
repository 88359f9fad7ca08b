// Lets the reader move through an episode. The page is complete without it.
for (const figure of document.querySelectorAll("figure[data-episode]")) {
  const episode = JSON.parse(figure.dataset.episode);
  const panel = figure.querySelector(".scrub");
  const still = panel.querySelector(".still");
  const slider = panel.querySelector("input");
  const words = panel.querySelector("output");
  const drawing = figure.querySelector("svg.episode");
  const cursor = drawing.querySelector(".scrub-cursor");
  const before = (steps, t) => Math.max(0, steps.findLastIndex((s) => s <= t));

  const show = () => {
    const t = Number(slider.value);
    const x = episode.left + ((t + 0.5) / episode.length) * (episode.right - episode.left);
    cursor.setAttribute("transform", `translate(${x} 0)`);
    cursor.setAttribute("visibility", "visible");
    const count = episode.frames.length;
    if (count > 1) {
      still.style.backgroundPosition = `${(100 * before(episode.frames, t)) / (count - 1)}% 0`;
    }
    const seconds = (t / episode.rate).toFixed(2);
    const chunk = before(episode.chunks, t) + 1;
    words.textContent = `${seconds} s: plan ${before(episode.plans, t) + 1}, chunk ${chunk}`;
  };

  if (episode.frames.length) {
    still.style.backgroundImage = `url(${episode.sprite})`;
    still.style.backgroundSize = `${100 * episode.frames.length}% 100%`;
  } else {
    still.remove();
  }
  slider.addEventListener("input", show);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * drawing.viewBox.baseVal.width;
    const share = (x - episode.left) / (episode.right - episode.left);
    slider.value = Math.floor(Math.min(0.9999, Math.max(0, share)) * episode.length);
    show();
  });
  panel.hidden = false;
}
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
  for (const video of document.querySelectorAll("video")) video.pause();
}

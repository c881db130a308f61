
// Replaces what is shown by a newer page. Without it the page is as it was loaded.
setInterval(async () => {
  if (document.hidden) return;
  try {
    const answer = await fetch("/");
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = page.title;
    document.getElementById("now").replaceWith(page.getElementById("now"));
  } catch { /* The agent is away; the last state stays. */ }
}, 2000);

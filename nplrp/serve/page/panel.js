// A PNG of heatmaps beside their image, with a title, colour bars and numbers: made to be pasted into a document.

const SIDE = 360; // at least so many pixels
const FONT = "system-ui, sans-serif";
const [GAP, HEAD, BAR, FOOT] = [24, 46, 46, 40];

/** Draw cards, all of the same image, as a PNG blob. */
export function panel(cards) {
  const { size, result } = cards[0];
  const scale = Math.ceil(SIDE / Math.max(size.height, size.width));
  const [height, width] = [size.height * scale, size.width * scale];
  const columns = [null, ...cards];
  const canvas = document.createElement("canvas");
  canvas.width = GAP + columns.length * (width + GAP);
  canvas.height = GAP + HEAD + HEAD + height + BAR + FOOT;
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const text = (string, x, y, { font = 14, weight = 400, align = "left", colour = "#1b1f23", most = canvas.width - 2 * GAP } = {}) => {
    context.font = `${weight} ${font}px ${FONT}`;
    context.fillStyle = colour;
    context.textAlign = align;
    context.fillText(fitting(context, string, most), x, y);
  };
  text(result.title, GAP, GAP + 16, { font: 19, weight: 600 });

  columns.forEach((card, i) => {
    const left = GAP + i * (width + GAP);
    const above = GAP + 2 * HEAD;
    const picture = card ? card.result.picture : result.picture;
    text(card ? card.preset : result.imageName, left, above - 30, { font: 16, weight: 600, most: width });
    text(card ? card.result.subtitle : `as the network sees it, ${size.width} × ${size.height}`, left, above - 11, { font: 13, most: width });
    context.imageSmoothingEnabled = false;
    if (picture) {
      context.filter = card ? "grayscale(1)" : "none";
      context.drawImage(picture, left, above, width, height);
      context.filter = "none";
    }
    if (card) {
      context.globalAlpha = card.opacity;
      context.drawImage(card.heat, left, above, width, height);
      context.globalAlpha = 1;
      context.drawImage(card.bar, left, above + height + 8, width, 12);
      card.labels().forEach((label, k) => {
        text(label, left + (width * k) / 4, above + height + 36, { font: 12, align: ["left", "center", "center", "center", "right"][k] });
      });
      text(`sha256 ${card.result.sha256}`, left, above + height + BAR + 12, { font: 10, colour: "#59616a", most: width });
    }
    context.strokeStyle = "#b9bec3";
    context.strokeRect(left - 0.5, above - 0.5, width + 1, height + 1);
  });
  text(`${result.model}; relevance by nplrp, summed over channels. Shows what moved the model, right or wrong; no diagnosis.`, GAP, canvas.height - 12, { font: 11, colour: "#59616a" });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function fitting(context, string, most) {
  if (context.measureText(string).width <= most) return string;
  let end = string.length;
  while (end > 1 && context.measureText(`${string.slice(0, end)}…`).width > most) end -= 1;
  return `${string.slice(0, end)}…`;
}

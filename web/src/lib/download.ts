export function download(name: string, content: Blob): void {
  const address = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  // The click is handled after this task; revoking at once would cancel it in some browsers.
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export const downloadText = (name: string, type: string, text: string): void => download(name, new Blob([text], { type }));

export function downloadCanvas(name: string, canvas: HTMLCanvasElement | null): void {
  canvas?.toBlob((blob) => {
    if (blob) download(name, blob);
  }, "image/png");
}

/** A file name from text that may hold anything. */
export const fileName = (title: string, extension: string): string =>
  `${title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "") || "chart"}.${extension}`;

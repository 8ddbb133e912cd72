/** Calls `seen` once when the element comes near the viewport: what is never scrolled to is never drawn. */
export function visible(element: Element, seen: () => void): { destroy(): void } {
  const observer = new IntersectionObserver(
    (entries) => {
      if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
      observer.disconnect();
      seen();
    },
    { rootMargin: "200px" },
  );
  observer.observe(element);
  return { destroy: () => observer.disconnect() };
}

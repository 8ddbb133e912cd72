export type ThemeChoice = "system" | "light" | "dark";

export const THEME_CHOICES: readonly ThemeChoice[] = ["system", "light", "dark"];
const STORAGE_KEY = "fathom.theme";

class Theme {
  choice = $state<ThemeChoice>(THEME_CHOICES.find((choice) => choice === localStorage.getItem(STORAGE_KEY)) ?? "system");
  private systemDark = $state(false);
  readonly dark = $derived(this.choice === "dark" || (this.choice === "system" && this.systemDark));

  constructor() {
    const media = matchMedia("(prefers-color-scheme: dark)");
    this.systemDark = media.matches;
    media.addEventListener("change", () => {
      this.systemDark = media.matches;
      this.apply();
    });
    this.apply();
  }

  choose(choice: ThemeChoice): void {
    this.choice = choice;
    localStorage.setItem(STORAGE_KEY, choice);
    this.apply();
  }

  next(): void {
    this.choose(THEME_CHOICES[(THEME_CHOICES.indexOf(this.choice) + 1) % THEME_CHOICES.length] ?? "system");
  }

  private apply(): void {
    document.documentElement.dataset.theme = this.dark ? "dark" : "light";
  }
}

export const theme = new Theme();

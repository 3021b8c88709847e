// Chats on disk: one IndexedDB store, keyed by id. Without one, they live as long as the page.

const STORE = "chats";

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

class Database {
  constructor(database) {
    this.database = database;
  }

  #store(mode) {
    return this.database.transaction(STORE, mode).objectStore(STORE);
  }

  all() {
    return done(this.#store("readonly").getAll());
  }

  get(id) {
    return done(this.#store("readonly").get(id));
  }

  put(chat) {
    return done(this.#store("readwrite").put(chat));
  }

  remove(id) {
    return done(this.#store("readwrite").delete(id));
  }
}

class Memory {
  lasting = false;
  all = async () => [];
  get = async () => undefined;
  put = async () => {};
  remove = async () => {};
}

/** The store of chats; `lasting` is false if nothing outlives the page. */
export async function openStorage() {
  try {
    const opening = indexedDB.open("ggserve", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
    return Object.assign(new Database(await done(opening)), { lasting: true });
  } catch {
    return new Memory();
  }
}
